# Python tests: pytest, several times for each interpreter.

# The Python tests' own C helpers. They know neither Python nor the shim, so one build does for every interpreter.
add_library(test_storm MODULE "${PROJECT_SOURCE_DIR}/tests/python/native/storm.c")
set_target_properties(test_storm PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
target_link_libraries(test_storm PRIVATE itr_options Threads::Threads)

# itr_add_pytest(<name> PYTHON <interpreter> FILES <files>... [ENVIRONMENT <variable=value>...] [PROPERTIES <property value>...])
# Each leaves notes of what became of its tests (tests/python/reporting.py).
function(itr_add_pytest name)
  cmake_parse_arguments(PARSE_ARGV 1 run "" "PYTHON" "FILES;ENVIRONMENT;PROPERTIES")
  add_test(
    NAME ${name}
    COMMAND "${run_PYTHON}" -m pytest ${run_FILES} -p no:cacheprovider
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  set_tests_properties(
    ${name} PROPERTIES
    TIMEOUT ${python_test_timeout} LABELS python ${run_PROPERTIES}
    ENVIRONMENT "PYTHONDONTWRITEBYTECODE=1;ITR_TEST_REPORT=${PROJECT_BINARY_DIR}/Testing/reports/${name};${run_ENVIRONMENT}")
endfunction()

# Once: the model of the protocol has nothing to do with the interpreter that checks it.
set(model_is_tested ${ITR_SANITIZE})

# What repeats the same many times, in groups of its own.
file(GLOB races RELATIVE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/tests/python/test_race*.py")
list(APPEND races tests/python/test_storms.py)
set(leaks tests/python/test_leaks.py)
# How the shim got in makes no difference to where code is cut, to interpreters of which each is started in its own way, nor
# to the tools.
set(preload_only "test_(check_cpython|check_links|examples|gate|loops|tracers|symbol_audit)")

# preload: as the launcher starts a program. import: a plain interpreter, whose calls are bound when the package installs.
# ctypes: the same, with the shim loaded by hand before.
foreach(tag IN LISTS ITR_TAGS)
  set(python "${ITR_PYTHON_${tag}}")
  set(package "PYTHONPATH=${PROJECT_BINARY_DIR}/py/${tag}")
  set(preloaded "${package}" "ITR_TEST_MODE=preload" "${preload_variable}=${preload}")
  set(native "ITR_TEST_LIBRARY=$<TARGET_FILE:interruptible>" "ITR_TEST_NATIVE=$<TARGET_FILE:test_storm>")
  execute_process(COMMAND "${python}" -c "import pytest" RESULT_VARIABLE missing OUTPUT_QUIET ERROR_QUIET)
  if(missing)
    if("$ENV{CI}" STREQUAL "true")
      message(FATAL_ERROR "${python} has no pytest")
    endif()
    message(WARNING "${python} has no pytest: the Python tests of ${tag} are left out")
    continue()
  endif()
  if(NOT model_is_tested)
    itr_add_pytest(
      model
      PYTHON "${python}"
      FILES tests/model -p reporting
      ENVIRONMENT "PYTHONPATH=${PROJECT_SOURCE_DIR}/tests/python")
    set(model_is_tested TRUE)
  endif()

  foreach(how IN ITEMS preload import ctypes)
    file(GLOB files RELATIVE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/tests/python/test_*.py")
    list(REMOVE_ITEM files ${races} ${leaks})
    if(NOT "${how}" STREQUAL "preload")
      list(FILTER files EXCLUDE REGEX "${preload_only}")
    endif()
    set(environment "${package}" "ITR_TEST_MODE=${how}")
    if("${how}" STREQUAL "preload")
      set(environment ${preloaded})
    elseif("${how}" STREQUAL "ctypes") # as with import, once it is in
      list(FILTER files EXCLUDE REGEX "test_hostile")
    endif()
    itr_add_pytest(python.${tag}.${how} PYTHON "${python}" FILES ${files} ENVIRONMENT ${environment} ${native})
  endforeach()
  itr_add_pytest(races.${tag} PYTHON "${python}" FILES ${races} ENVIRONMENT ${preloaded} ${native})
  itr_add_pytest(leaks.${tag} PYTHON "${python}" FILES ${leaks} ENVIRONMENT ${preloaded} ${native})
  itr_add_pytest(
    storm.${tag}
    PYTHON "${python}"
    FILES tests/storm
    ENVIRONMENT ${preloaded} ${native}
    PROPERTIES ${alone} TIMEOUT 100000) # ITR_STORM_SECONDS decides; pytest ends what hangs

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
      ENVIRONMENT "${package};PYTHONDONTWRITEBYTECODE=1" ${alone} TIMEOUT ${python_test_timeout} LABELS python)
  endif()
endforeach()
