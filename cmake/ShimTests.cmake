# C tests: each tests/c/test_*.c is an executable that runs twice, linked with the shim and with the shim preloaded.
# Other .c files of that folder are helpers, compiled into each test.
find_package(PkgConfig REQUIRED)
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

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
