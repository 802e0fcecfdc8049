# Installs the headers and the package that find_package(nola [COMPONENTS io onnx compiled]) reads.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(packageDirectory "${CMAKE_INSTALL_DATADIR}/cmake/nola")
target_include_directories(nola INTERFACE "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
install(DIRECTORY include/nola DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.hpp" PATTERN "*.inl" PATTERN "*.md")

# An export set each, so that reading the core's never asks for what a component needs.
install(TARGETS nola EXPORT nolaTargets)
install(EXPORT nolaTargets NAMESPACE nola:: DESTINATION "${packageDirectory}")
install(TARGETS nola_io EXPORT nolaIoTargets)
install(EXPORT nolaIoTargets NAMESPACE nola:: DESTINATION "${packageDirectory}")
install(TARGETS nola_onnx EXPORT nolaOnnxTargets)
install(EXPORT nolaOnnxTargets NAMESPACE nola:: DESTINATION "${packageDirectory}")

if(NOLA_COMPILED)
  install(TARGETS nola_compiled EXPORT nolaCompiledTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(EXPORT nolaCompiledTargets NAMESPACE nola:: DESTINATION "${packageDirectory}")
  if(TARGET nola_compiled_onnx)
    install(TARGETS nola_compiled_onnx EXPORT nolaCompiledOnnxTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
    install(EXPORT nolaCompiledOnnxTargets NAMESPACE nola:: DESTINATION "${packageDirectory}")
  endif()
endif()

configure_package_config_file(cmake/nolaConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/nolaConfig.cmake"
                              INSTALL_DESTINATION "${packageDirectory}")
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/nolaConfigVersion.cmake"
                                 COMPATIBILITY SameMajorVersion ARCH_INDEPENDENT)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/nolaConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/nolaConfigVersion.cmake"
              "${CMAKE_CURRENT_LIST_DIR}/FindOnnxProto.cmake"
        DESTINATION "${packageDirectory}")
