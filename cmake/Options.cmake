# What every target of the project is compiled with: link to itr_options.
include(CheckCCompilerFlag)

add_library(itr_options INTERFACE)
target_compile_definitions(itr_options INTERFACE _GNU_SOURCE)
target_include_directories(itr_options INTERFACE "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/src")
target_compile_options(itr_options INTERFACE -Wall -Wextra -Wpedantic -Wconversion $<$<BOOL:${ITR_WERROR}>:-Werror>)

if(ITR_SANITIZE)
  target_compile_options(itr_options INTERFACE -fsanitize=${ITR_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(itr_options INTERFACE -fsanitize=${ITR_SANITIZE})
endif()

# The fortified variants of libc's functions are interposed too, and must not be what our own calls turn into.
add_library(itr_unfortified INTERFACE)
target_compile_options(itr_unfortified INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=0)
