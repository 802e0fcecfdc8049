# The tests that look at the source and the package rather than run one of the test programs.
find_program(BASH_PROGRAM bash REQUIRED)
set(checks "${CMAKE_CURRENT_SOURCE_DIR}/checks")
set(work "${CMAKE_CURRENT_BINARY_DIR}/checks")
set(include "${PROJECT_SOURCE_DIR}/include")

# Include paths of what a header may need, as compiler flags.
set(dependencyFlags "")
set(dependencies Eigen3::Eigen nlohmann_json::nlohmann_json)
if(TARGET ONNX::onnx_proto)
  list(APPEND dependencies ONNX::onnx_proto protobuf::libprotobuf)
endif()
foreach(target IN LISTS dependencies)
  get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
  foreach(directory IN LISTS directories)
    if(NOT directory STREQUAL "/usr/include")
      list(APPEND dependencyFlags -isystem ${directory})
    endif()
  endforeach()
endforeach()

# nola_add_check(<name> <command>...)
function(nola_add_check name)
  add_test(NAME check_${name} COMMAND ${ARGN})
  set_tests_properties(check_${name} PROPERTIES TIMEOUT 1800 SKIP_RETURN_CODE 77)
endfunction()

# What the text of the headers says
nola_add_check(layout ${CMAKE_COMMAND} -DINCLUDE_DIRECTORY=${include} -P ${checks}/layout.cmake)

file(WRITE "${work}/planted/nola/random/planted.hpp"
     "// Includes what lies to its right.\n#pragma once\n\n#include \"nola/layers/contract/layer.hpp\"\n")
nola_add_check(layout_finds_a_violation
               ${CMAKE_COMMAND} -DINCLUDE_DIRECTORY=${work}/planted -P ${checks}/layout.cmake)
set_tests_properties(check_layout_finds_a_violation PROPERTIES
                     PASS_REGULAR_EXPRESSION "random must not include layers.*1 rules broken in 1 headers")

# What the pages say
set(layerTest ${PROJECT_SOURCE_DIR}/tests/writing_a_layer_test.cpp)
nola_add_check(writing_a_layer ${CMAKE_COMMAND} -DPAGE=${include}/nola/layers/writing_a_layer.md -DSOURCE=${layerTest}
               -P ${checks}/page_code.cmake)

file(WRITE "${work}/planted/page.md" "```cpp\nclass Scale;\n```\n")
nola_add_check(writing_a_layer_finds_other_code ${CMAKE_COMMAND} -DPAGE=${work}/planted/page.md -DSOURCE=${layerTest}
               -P ${checks}/page_code.cmake)
set_tests_properties(check_writing_a_layer_finds_other_code PROPERTIES PASS_REGULAR_EXPRESSION "1 of 1 blocks of code are missing")

if(TARGET nola_docs)  # not in a project that contains nola
  set(buildReference ${CMAKE_COMMAND} --build ${PROJECT_BINARY_DIR} --target nola_docs)
  if(NOT DOXYGEN_FOUND)
    set(buildReference ${BASH_PROGRAM} -c "echo 'skipped: no Doxygen'; exit 77")
  endif()
  nola_add_check(docs ${buildReference})
  set_tests_properties(check_docs PROPERTIES LABELS long)
endif()

# What the compilers say
set(headerCompiler "")
foreach(compiler g++ clang++)
  string(MAKE_C_IDENTIFIER ${compiler}_program variable)
  find_program(${variable} ${compiler})
  mark_as_advanced(${variable})
  if(NOT ${variable})
    message(STATUS "nola: no checks with ${compiler}, it is not installed")
    continue()
  endif()
  string(REPLACE "++" "xx" suffix ${compiler})
  set(headerCompiler ${${variable}})  # one is enough to find a missing include: the last
  nola_add_check(known_answers_${suffix} ${BASH_PROGRAM} ${checks}/golden_answers.sh ${${variable}}
                 ${PROJECT_SOURCE_DIR} ${work}/known_answers_${suffix} ${dependencyFlags})
  nola_add_check(package_${suffix} ${BASH_PROGRAM} ${checks}/package.sh ${${variable}} ${PROJECT_SOURCE_DIR}
                 ${PROJECT_BINARY_DIR} ${work}/package_${suffix})
  set_tests_properties(check_known_answers_${suffix} PROPERTIES LABELS long)
  if(compiler STREQUAL "clang++")
    set_tests_properties(check_package_${suffix} PROPERTIES LABELS long)
  endif()
endforeach()
if(headerCompiler)
  nola_add_check(headers ${BASH_PROGRAM} ${checks}/headers.sh ${headerCompiler} ${include} ${dependencyFlags})
  set_tests_properties(check_headers PROPERTIES LABELS long)
endif()

nola_add_check(consumers ${BASH_PROGRAM} ${checks}/consumers.sh ${PROJECT_SOURCE_DIR} ${dependencyFlags})

# Two units of one program, with different flags, in either order of linking: the linker keeps the first unit's copy of
# what both define. Eigen asks that all units agree on its alignment, which -march would change.
add_library(nola_first_unit OBJECT checks/two_units.cpp)
target_compile_options(nola_first_unit PRIVATE -O0)
add_library(nola_second_unit OBJECT checks/two_units.cpp)
target_compile_options(nola_second_unit PRIVATE -O2 -march=native)
target_compile_definitions(nola_second_unit PRIVATE NOLA_SECOND_UNIT)
foreach(unit nola_first_unit nola_second_unit)
  target_compile_definitions(${unit} PRIVATE EIGEN_MAX_ALIGN_BYTES=64)
  target_link_libraries(${unit} PRIVATE nola::nola nola::io nola_program_options)
endforeach()
foreach(order first_second second_first)
  string(REPLACE "_" ";" units ${order})
  list(TRANSFORM units REPLACE "(.+)" "$<TARGET_OBJECTS:nola_\\1_unit>")
  add_executable(nola_units_${order} ${units})
  target_link_libraries(nola_units_${order} PRIVATE nola_program_options)
  if(TARGET ONNX::onnx_proto)
    target_link_libraries(nola_units_${order} PRIVATE nola::onnx)
  endif()
  nola_add_check(units_${order} nola_units_${order})
endforeach()

# One with OpenMP and one without, likewise.
if(OpenMP_CXX_FOUND)
  add_library(nola_main_unit OBJECT checks/threads_of_units.cpp)
  target_link_libraries(nola_main_unit PRIVATE nola::nola nola_program_options)
  add_library(nola_openmp_unit OBJECT checks/threads_of_units.cpp)
  target_compile_definitions(nola_openmp_unit PRIVATE NOLA_SECOND_UNIT)
  target_link_libraries(nola_openmp_unit PRIVATE nola::nola nola_program_options OpenMP::OpenMP_CXX)
  foreach(order main_openmp openmp_main)
    string(REPLACE "_" ";" units ${order})
    list(TRANSFORM units REPLACE "(.+)" "$<TARGET_OBJECTS:nola_\\1_unit>")
    add_executable(nola_threads_${order} ${units})
    target_link_libraries(nola_threads_${order} PRIVATE nola_program_options OpenMP::OpenMP_CXX)
    nola_add_check(threads_${order} nola_threads_${order})
    set_tests_properties(check_threads_${order} PROPERTIES ENVIRONMENT OMP_NUM_THREADS=3)
  endforeach()
endif()

# What the tools say
nola_add_check(format ${BASH_PROGRAM} ${checks}/format.sh ${PROJECT_SOURCE_DIR})
nola_add_check(tidy ${BASH_PROGRAM} ${checks}/tidy.sh ${PROJECT_SOURCE_DIR} ${dependencyFlags})
set_tests_properties(check_tidy PROPERTIES LABELS long)

# What ONNX Runtime says, which npm fetches: the exported networks compute what the library infers.
if(TARGET ONNX::onnx_proto)
  add_executable(nola_onnx_networks checks/onnx_networks.cpp)
  target_include_directories(nola_onnx_networks PRIVATE "${PROJECT_SOURCE_DIR}/examples"
                                                       "${PROJECT_SOURCE_DIR}/examples/export_onnx"
                                                       "${PROJECT_SOURCE_DIR}/examples/language_detector")
  target_link_libraries(nola_onnx_networks PRIVATE nola::onnx nola::compiled nola_program_options Threads::Threads)
  nola_add_check(onnx_runtime ${BASH_PROGRAM} ${checks}/onnx_runtime.sh $<TARGET_FILE:nola_onnx_networks>
                 ${PROJECT_SOURCE_DIR} ${work}/onnx_runtime)
  set_tests_properties(check_onnx_runtime PROPERTIES LABELS long)

  add_executable(nola_onnx_imported checks/onnx_imported.cpp)
  target_include_directories(nola_onnx_imported PRIVATE "${PROJECT_SOURCE_DIR}/examples"
                                                        "${PROJECT_SOURCE_DIR}/examples/export_onnx")
  target_link_libraries(nola_onnx_imported PRIVATE nola::onnx nola::io nola::compiled nola_program_options Threads::Threads)
  nola_add_check(onnx_imported ${BASH_PROGRAM} ${checks}/onnx_imported.sh $<TARGET_FILE:nola_onnx_imported>
                 ${PROJECT_SOURCE_DIR} ${work}/onnx_imported)
  set_tests_properties(check_onnx_imported PROPERTIES LABELS long)
endif()
