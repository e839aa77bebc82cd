# What the tests of both kinds have in common, and then the tests.
# Against what hangs: a machine ten times slower needs less. Python's tests have a guard each as well (conftest.py).
set(c_test_timeout 600)
set(python_test_timeout 3600)
# Several programs run at a time (CMakePresets.json), since they wait most of theirs; but storms, and CPython's own tests,
# which come in pairs, have the machine to themselves.
set(alone PROCESSORS 3)

# AddressSanitizer's runtime has to come before everything else that is preloaded. ThreadSanitizer's behind the shim: in
# front of it, it would take what the shim does for the inside of a libc call, and not see its locks.
set(preload "$<TARGET_FILE:interruptible>")
foreach(pair IN ITEMS address:libasan.so thread:libtsan.so)
  string(REPLACE ":" ";" pair "${pair}")
  list(GET pair 0 sanitizer)
  list(GET pair 1 runtime)
  if(ITR_SANITIZE MATCHES "${sanitizer}")
    execute_process(
      COMMAND ${CMAKE_C_COMPILER} -print-file-name=${runtime}
      OUTPUT_VARIABLE runtime OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    cmake_path(ABSOLUTE_PATH runtime NORMALIZE)
    if(sanitizer STREQUAL thread)
      string(APPEND preload ":${runtime}")
    else()
      string(PREPEND preload "${runtime}:")
    endif()
  endif()
endforeach()
if(APPLE)
  set(preload_variable DYLD_INSERT_LIBRARIES)
else()
  set(preload_variable LD_PRELOAD)
endif()
set(sanitizer_environment
    "ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1" "UBSAN_OPTIONS=print_stacktrace=1"
    "TSAN_OPTIONS=halt_on_error=1:report_thread_leaks=0:second_deadlock_stack=1:suppressions=${PROJECT_SOURCE_DIR}/cmake/tsan.supp")

if(ITR_C_TESTS)
  include(ShimTests)
endif()
include(PythonTests)
