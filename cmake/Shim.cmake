# libinterruptible: the shim. It knows libc only.
find_package(Threads REQUIRED)

file(GLOB shim_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/*.c" "${PROJECT_SOURCE_DIR}/src/calls/*.c")
if(APPLE)
  list(FILTER shim_sources EXCLUDE REGEX "/(preload|late_bind|settled)\\.c$")
else()
  list(FILTER shim_sources EXCLUDE REGEX "_darwin\\.c$")
endif()

add_library(interruptible SHARED ${shim_sources})
set_target_properties(interruptible PROPERTIES C_VISIBILITY_PRESET hidden)
target_include_directories(
  interruptible PUBLIC "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>" "$<INSTALL_INTERFACE:include>")
target_link_libraries(interruptible PRIVATE itr_options itr_unfortified Threads::Threads ${CMAKE_DL_LIBS})

check_c_compiler_flag(-fno-semantic-interposition ITR_HAVE_NO_SEMANTIC_INTERPOSITION)
if(ITR_HAVE_NO_SEMANTIC_INTERPOSITION)
  target_compile_options(interruptible PRIVATE -fno-semantic-interposition)
endif()

if(NOT APPLE)
  # The slot pointer is read in every interposed call, also before the dynamic linker can allocate: static TLS.
  target_compile_options(interruptible PRIVATE -ftls-model=initial-exec)
  target_link_options(interruptible PRIVATE LINKER:-z,nodelete LINKER:-z,now LINKER:-z,relro)
  target_link_libraries(interruptible PRIVATE rt)
  if(NOT ITR_SANITIZE)
    target_link_options(interruptible PRIVATE LINKER:-z,defs)
  endif()
endif()

if(SKBUILD)
  install(TARGETS interruptible LIBRARY DESTINATION interruptible_threading)
else()
  include(GNUInstallDirs)
  install(TARGETS interruptible LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(FILES "${PROJECT_SOURCE_DIR}/include/interruptible.h" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
endif()

# ThreadSanitizer calls libc, and so our exported functions, before it can bear instrumented code. The protocol itself
# (flag table, park, monitor, pipes) is reached only by attached threads, and stays instrumented.
if(ITR_SANITIZE MATCHES "thread")
  file(GLOB reached_early "${PROJECT_SOURCE_DIR}/src/calls/*.c")
  set_source_files_properties(
    ${reached_early} "${PROJECT_SOURCE_DIR}/src/disposition.c" "${PROJECT_SOURCE_DIR}/src/preload.c"
    "${PROJECT_SOURCE_DIR}/src/signals.c"
    PROPERTIES COMPILE_OPTIONS -fno-sanitize=thread)
endif()
