# interruptible_threading: one extension module, and one importable package, per interpreter.
#
# itr_add_python(<interpreter>) builds <build>/py/<tag>/interruptible_threading: links to the Python sources and to the
# shim, and the interpreter's own _core. PYTHONPATH=<build>/py/<tag> makes it a working package. Appends the tag to the
# list ITR_TAGS and sets ITR_PYTHON_<tag> to the interpreter.
file(GLOB core_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/python/*.c")
file(
  GLOB_RECURSE package_files CONFIGURE_DEPENDS
  RELATIVE "${PROJECT_SOURCE_DIR}/python"
  "${PROJECT_SOURCE_DIR}/python/*.py" "${PROJECT_SOURCE_DIR}/python/*.pyi" "${PROJECT_SOURCE_DIR}/python/*/py.typed")

function(itr_add_python python)
  execute_process(
    COMMAND "${python}" "${PROJECT_SOURCE_DIR}/cmake/describe_python.py"
    OUTPUT_VARIABLE facts
    COMMAND_ERROR_IS_FATAL ANY)
  foreach(fact IN ITEMS tag include suffix)
    string(JSON ${fact} GET "${facts}" ${fact})
  endforeach()
  if(NOT EXISTS "${include}/Python.h")
    message(FATAL_ERROR "${python}: there is no ${include}/Python.h; install its development files")
  endif()
  if(tag IN_LIST ITR_TAGS)
    message(FATAL_ERROR "${python}: another interpreter is called ${tag} too")
  endif()
  set(ITR_TAGS ${ITR_TAGS} ${tag} PARENT_SCOPE)
  set(ITR_PYTHON_${tag} "${python}" PARENT_SCOPE)

  set(target core-${tag})
  add_library(${target} MODULE ${core_sources})
  set_target_properties(
    ${target} PROPERTIES
    PREFIX "" OUTPUT_NAME _core SUFFIX "${suffix}" C_VISIBILITY_PRESET hidden)
  # The internal headers are for the one file that knows the interpreter's frames.
  target_include_directories(${target} SYSTEM PRIVATE "${include}" "${include}/internal")
  target_link_libraries(${target} PRIVATE itr_options Threads::Threads ${CMAKE_DL_LIBS})
  if(APPLE)
    target_link_options(${target} PRIVATE LINKER:-undefined,dynamic_lookup)
  endif()

  if(SKBUILD)
    install(TARGETS ${target} LIBRARY DESTINATION interruptible_threading)
    return()
  endif()

  set(root "${PROJECT_BINARY_DIR}/py/${tag}")
  set_target_properties(${target} PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${root}/interruptible_threading")
  add_dependencies(${target} interruptible)
  file(GLOB_RECURSE present LIST_DIRECTORIES false "${root}/*.py" "${root}/*.pyi" "${root}/*/py.typed")
  file(REMOVE ${present})
  foreach(name IN LISTS package_files)
    cmake_path(GET name PARENT_PATH folder)
    file(MAKE_DIRECTORY "${root}/${folder}")
    file(CREATE_LINK "${PROJECT_SOURCE_DIR}/python/${name}" "${root}/${name}" SYMBOLIC)
  endforeach()
  set(shim "${CMAKE_SHARED_LIBRARY_PREFIX}interruptible${CMAKE_SHARED_LIBRARY_SUFFIX}")
  file(MAKE_DIRECTORY "${root}/interruptible_threading")
  file(CREATE_LINK "${PROJECT_BINARY_DIR}/${shim}" "${root}/interruptible_threading/${shim}" SYMBOLIC)
endfunction()
