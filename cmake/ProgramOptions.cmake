# How nola's own programs are compiled: with all warnings, and by option for this machine or under a sanitizer.
# All of it sits in nola_program_options, which is never exported, so that none reaches a user of the library.
option(NOLA_WARNINGS_AS_ERRORS "For those who change nola: a warning of a compiler that we have not seen stops nobody" OFF)
option(NOLA_NATIVE "Tune nola's own programs for this machine (-march=native)" OFF)
set(NOLA_SANITIZE "" CACHE STRING "Sanitizers for nola's own programs: 'address,undefined' or 'thread'")

add_library(nola_program_options INTERFACE)
target_compile_options(nola_program_options INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wsign-conversion
  $<$<BOOL:${NOLA_WARNINGS_AS_ERRORS}>:-Werror>
  $<$<BOOL:${NOLA_NATIVE}>:-march=native>)
if(NOLA_SANITIZE)
  set(sanitizerFlags -fsanitize=${NOLA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(nola_program_options INTERFACE ${sanitizerFlags})
  target_link_options(nola_program_options INTERFACE ${sanitizerFlags})
endif()
if(NOLA_NATIVE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # False alarms in g++'s own AVX-512 header, GCC bug 105593.
  target_compile_options(nola_program_options INTERFACE -Wno-maybe-uninitialized -Wno-uninitialized)
endif()
