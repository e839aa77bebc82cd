# C tests: each tests/c/test_*.c is an executable that runs twice, linked with the shim and with the shim preloaded.
# Other .c files of that folder are helpers, compiled into each test. Python tests: pytest, once per interpreter.
find_package(PkgConfig REQUIRED)
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

set(c_test_timeout 120)
set(python_test_timeout 600)
# Two interpreters' tests run at a time (CMakePresets.json), since they wait most of theirs; but storms, and CPython's own
# tests, which come in pairs, have the machine to themselves.
set(alone PROCESSORS 2)

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

file(GLOB test_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/c/test_*.c")
file(GLOB test_helpers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/c/*.c")
list(FILTER test_helpers EXCLUDE REGEX "/test_[^/]*\\.c$")

set(under "")
if(ITR_VALGRIND)
  find_program(VALGRIND valgrind REQUIRED)
  # Whatever is still reachable, or only possibly lost, belongs to threads that run when the test ends.
  # It runs one thread at a time: in turn, or one that spins would starve the others.
  set(under "${VALGRIND}" --quiet --fair-sched=try --error-exitcode=99 --show-leak-kinds=definite --errors-for-leak-kinds=definite)
  # It stops all threads for an open() that waits, has room for 500 of them, keeps descriptors for itself, is late, takes no
  # single steps, and answers in the kernel's place.
  set(not_under_valgrind "^test_(as_the_kernel|calls_files|churn|interplay|nested|pipes|stale)$")
  # What the threads held that a forked child does not have is lost there.
  set(not_for_leaks "^test_lookups$")
  set(c_test_timeout 300)
endif()

function(itr_add_c_test source)
  cmake_path(GET source STEM LAST_ONLY name)
  add_executable(${name} "${source}" ${test_helpers})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
  target_link_libraries(
    ${name} PRIVATE itr_options itr_unfortified interruptible PkgConfig::CMOCKA Threads::Threads ${CMAKE_DL_LIBS})
  foreach(how IN ITEMS linked preloaded)
    if(ITR_VALGRIND AND ("${how}" STREQUAL "preloaded" OR name MATCHES "${not_under_valgrind}"))
      continue()
    endif()
    # The sanitizers' own wrappers of poll() stand between a library and us: they are the callers there.
    if(ITR_SANITIZE AND name STREQUAL "test_foreign")
      continue()
    endif()
    # ThreadSanitizer holds signal handlers back while it is inside some calls, so only the tests of the protocol mean
    # anything under it.
    if(ITR_SANITIZE MATCHES "thread" AND ("${how}" STREQUAL "linked" OR NOT name MATCHES "^test_(api|calls_waits|race)$"))
      continue()
    endif()
    set(environment ${sanitizer_environment})
    if(ITR_VALGRIND)
      list(APPEND environment ITR_TEST_COUNT=100) # it is slow
    endif()
    if("${how}" STREQUAL "preloaded")
      list(APPEND environment "${preload_variable}=${preload}")
    endif()
    if(ITR_VALGRIND AND NOT name MATCHES "${not_for_leaks}")
      list(APPEND under --leak-check=full)
    endif()
    add_test(NAME c.${name}.${how} COMMAND ${under} $<TARGET_FILE:${name}>)
    set_tests_properties(
      c.${name}.${how} PROPERTIES
      ENVIRONMENT "${environment}" TIMEOUT ${c_test_timeout} LABELS c)
  endforeach()
endfunction()

foreach(source IN LISTS test_sources)
  itr_add_c_test("${source}")
endforeach()

# The same library under names that mean something to the shim, and under names that only look like it.
set(libraries "${PROJECT_BINARY_DIR}/tests/libs")
foreach(name IN ITEMS libwaits.so libpq-0123abcd.so.5 libsqlite3.so.0 libpqxx.so psycopg_c/_psycopg.so
                      psycopg2/_psycopg.so libgone.so libnext.so)
  string(MAKE_C_IDENTIFIER "waits_${name}" target)
  get_filename_component(folder "${libraries}/${name}" DIRECTORY)
  get_filename_component(file "${name}" NAME)
  add_library(${target} MODULE "${PROJECT_SOURCE_DIR}/tests/c/libs/waits.c")
  set_target_properties(
    ${target} PROPERTIES
    PREFIX "" OUTPUT_NAME "${file}" SUFFIX "" LIBRARY_OUTPUT_DIRECTORY "${folder}")
  target_link_libraries(${target} PRIVATE itr_options itr_unfortified)
  add_dependencies(test_foreign ${target})
endforeach()
target_compile_definitions(test_foreign PRIVATE "TEST_LIBRARIES=\"${libraries}\"")

# Behind the shim, in front of libc.
add_library(slow_resolver SHARED "${PROJECT_SOURCE_DIR}/tests/c/slow/slow_resolver.c")
target_link_libraries(slow_resolver PRIVATE itr_options ${CMAKE_DL_LIBS})
target_include_directories(slow_resolver INTERFACE "${PROJECT_SOURCE_DIR}/tests/c/slow")
target_link_libraries(test_lookups PRIVATE slow_resolver)
target_link_libraries(test_resolver PRIVATE slow_resolver)

if(NOT APPLE AND NOT ITR_SANITIZE AND NOT ITR_VALGRIND)
  include(LateTests)
endif()

# The Python tests' own C helpers. They know neither Python nor the shim, so one build does for every interpreter.
add_library(test_storm MODULE "${PROJECT_SOURCE_DIR}/tests/python/native/storm.c")
set_target_properties(test_storm PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
target_link_libraries(test_storm PRIVATE itr_options Threads::Threads)

# Once: the model of the protocol has nothing to do with the interpreter that checks it.
set(model_is_tested ${ITR_SANITIZE})

# preload: as the launcher starts a program. import: a plain interpreter, whose calls are bound when the package installs.
# ctypes: the same, with the shim loaded by hand before.
foreach(tag IN LISTS ITR_TAGS)
  set(python "${ITR_PYTHON_${tag}}")
  execute_process(COMMAND "${python}" -c "import pytest" RESULT_VARIABLE missing OUTPUT_QUIET ERROR_QUIET)
  if(missing)
    if("$ENV{CI}" STREQUAL "true")
      message(FATAL_ERROR "${python} has no pytest")
    endif()
    message(WARNING "${python} has no pytest: the Python tests of ${tag} are left out")
    continue()
  endif()
  if(NOT model_is_tested)
    add_test(
      NAME model
      COMMAND "${python}" -m pytest tests/model -p no:cacheprovider
      WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
    set_tests_properties(model PROPERTIES ENVIRONMENT "PYTHONDONTWRITEBYTECODE=1" TIMEOUT ${python_test_timeout} LABELS python)
    set(model_is_tested TRUE)
  endif()
  # Nobody is interrupted: CPython's own tests see no difference. "make check-cpython" runs many more.
  execute_process(COMMAND "${python}" -c "import test.libregrtest, test.test_queue" RESULT_VARIABLE missing OUTPUT_QUIET ERROR_QUIET)
  if(missing)
    message(STATUS "${python} comes without CPython's tests: cpython.${tag} is left out")
  else()
    add_test(
      NAME cpython.${tag}
      COMMAND "${python}" scripts/check_cpython.py threading queue select poll epoll thread fcntl fork1 wait3 wait4
      WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
    set_tests_properties(
      cpython.${tag} PROPERTIES
      ENVIRONMENT "PYTHONPATH=${PROJECT_BINARY_DIR}/py/${tag};PYTHONDONTWRITEBYTECODE=1" ${alone} TIMEOUT ${python_test_timeout} LABELS python)
  endif()
  add_test(
    NAME storm.${tag}
    COMMAND "${python}" -m pytest tests/storm -p no:cacheprovider -s
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  set_tests_properties(
    storm.${tag}
    PROPERTIES ENVIRONMENT
               "PYTHONPATH=${PROJECT_BINARY_DIR}/py/${tag};PYTHONDONTWRITEBYTECODE=1;ITR_TEST_MODE=preload;${preload_variable}=${preload}"
               ${alone} TIMEOUT 100000 LABELS python) # ITR_STORM_SECONDS decides; pytest ends what hangs
  foreach(how IN ITEMS preload import ctypes)
    set(environment "PYTHONPATH=${PROJECT_BINARY_DIR}/py/${tag}" "PYTHONDONTWRITEBYTECODE=1" "ITR_TEST_MODE=${how}"
        "ITR_TEST_LIBRARY=$<TARGET_FILE:interruptible>" "ITR_TEST_NATIVE=$<TARGET_FILE:test_storm>")
    if("${how}" STREQUAL "preload")
      list(APPEND environment "${preload_variable}=${preload}")
      set(files tests/python)
    else()
      # How the shim got in makes no difference to where code is cut, nor to many rounds of the same; nor to interpreters of
      # which each is started in its own way.
      file(GLOB files RELATIVE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/tests/python/test_*.py")
      list(FILTER files EXCLUDE REGEX "test_(examples|leaks|loops|tracers|race|storms|symbol_audit)")
      if("${how}" STREQUAL "ctypes") # as with import, once it is in
        list(FILTER files EXCLUDE REGEX "test_hostile")
      endif()
    endif()
    add_test(
      NAME python.${tag}.${how}
      COMMAND "${python}" -m pytest ${files} -p no:cacheprovider
      WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
    set_tests_properties(
      python.${tag}.${how} PROPERTIES
      ENVIRONMENT "${environment}" TIMEOUT ${python_test_timeout} LABELS python)
  endforeach()
endforeach()
