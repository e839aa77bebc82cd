// A Go runtime in the same process. It preempts its goroutines by SIGURG, for which it installs a handler by system call.
package main

import "C"

import (
	"runtime"
	"sync/atomic"
)

const many = 8

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

// Block keeps its caller until somebody calls Release.
//
//export Block
func Block() { <-gate }

//export Release
func Release() { gate <- true }

func main() {}
