# nola::compiled: what headers otherwise compile in every unit, once, for float and double. The units are in
# cmake/compiled, include/nola/core/compiled.hpp says how a header takes part. Whoever links to it includes the same
# headers. It holds io too where there is a JSON parser.
set(units definitions kernels layers transformers adapters)
if(TARGET nlohmann_json::nlohmann_json)
  list(APPEND units io)
endif()
list(TRANSFORM units REPLACE "(.+)" "${CMAKE_CURRENT_LIST_DIR}/compiled/\\1.cpp")
add_library(nola_compiled STATIC ${units})
add_library(nola::compiled ALIAS nola_compiled)
set_target_properties(nola_compiled PROPERTIES EXPORT_NAME compiled OUTPUT_NAME nola POSITION_INDEPENDENT_CODE ON)
target_link_libraries(nola_compiled PUBLIC nola)
target_compile_options(nola_compiled PRIVATE $<$<STREQUAL:$<CONFIG>,>:-O2>)  # a project around it may have no type
if(TARGET nola_program_options)
  target_link_libraries(nola_compiled PRIVATE $<BUILD_INTERFACE:nola_program_options>)
endif()
# Eigen asks that all units of a program agree on how its memory is aligned, which -march would change in some.
target_compile_definitions(nola_compiled PUBLIC NOLA_COMPILED EIGEN_MAX_ALIGN_BYTES=64 PRIVATE NOLA_COMPILING)
if(TARGET nlohmann_json::nlohmann_json)
  target_link_libraries(nola_compiled PRIVATE $<BUILD_INTERFACE:nlohmann_json::nlohmann_json>)
  target_compile_definitions(nola_compiled PRIVATE NOLA_COMPILED_IO)
endif()

# The part of nola::onnx, in a library of its own: nola::compiled needs no protobuf. Whoever links nola::onnx without
# nola::compiled compiles the headers, and takes nothing from it.
if(TARGET ONNX::onnx_proto)
  add_library(nola_compiled_onnx STATIC "${CMAKE_CURRENT_LIST_DIR}/compiled/onnx.cpp")
  set_target_properties(nola_compiled_onnx PROPERTIES EXPORT_NAME compiled_onnx POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(nola_compiled_onnx PRIVATE nola_compiled ONNX::onnx_proto)
  target_compile_definitions(nola_compiled_onnx PRIVATE NOLA_COMPILING_ONNX)
  if(TARGET nola_program_options)
    target_link_libraries(nola_compiled_onnx PRIVATE $<BUILD_INTERFACE:nola_program_options>)
  endif()
  # Installed, nolaConfig.cmake adds the same.
  target_link_libraries(nola_onnx INTERFACE $<BUILD_INTERFACE:nola_compiled_onnx>)
  target_compile_definitions(nola_onnx INTERFACE $<BUILD_INTERFACE:NOLA_COMPILED_ONNX>)
endif()
