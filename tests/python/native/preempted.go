// A Go runtime in the same process. It preempts its goroutines by SIGURG, for which it installs a handler by system call.
package main

import "C"

import (
	"runtime"
	"sync/atomic"
)

// More than processors.
const many = 3

var rounds [many]uint64
var gate = make(chan bool)

// Loops that call nothing: only a signal takes the processor from them.
func spin(n int) {
	for {
		atomic.AddUint64(&rounds[n], 1)
	}
}

//export Start
func Start(processors C.int) {
	runtime.GOMAXPROCS(int(processors))
	for n := 0; n < many; n++ {
		go spin(n)
	}
}

//export Least
func Least() C.ulonglong {
	least := atomic.LoadUint64(&rounds[0])
	for n := 1; n < many; n++ {
		if now := atomic.LoadUint64(&rounds[n]); now < least {
			least = now
		}
	}
	return C.ulonglong(least)
}

// Collect stops the world, so every goroutine has to be preempted.
//
//export Collect
func Collect() { runtime.GC() }

var blocked int32

// Block keeps its caller until somebody calls Release.
//
//export Block
func Block() {
	atomic.AddInt32(&blocked, 1)
	<-gate
}

// Blocked says how often Block has been called.
//
//export Blocked
func Blocked() C.int { return C.int(atomic.LoadInt32(&blocked)) }

//export Release
func Release() { gate <- true }

func main() {}
