# nola_docs: the reference that Doxygen writes from the headers, as web pages in the build's directory `docs`. A warning
# of Doxygen's fails it.
find_package(Doxygen 1.9 QUIET)
set(documentation "${PROJECT_BINARY_DIR}/docs")
if(DOXYGEN_FOUND)
  configure_file("${CMAKE_CURRENT_LIST_DIR}/Doxyfile.in" "${documentation}/Doxyfile" @ONLY)
  add_custom_target(nola_docs
    COMMAND ${DOXYGEN_EXECUTABLE} "${documentation}/Doxyfile"
    COMMAND ${CMAKE_COMMAND} -E echo "nola's reference: ${documentation}/html/index.html"
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    COMMENT "nola's reference" VERBATIM)
else()
  add_custom_target(nola_docs
    COMMAND ${CMAKE_COMMAND} -E echo "nola_docs needs Doxygen 1.9 or later (Debian: apt install doxygen). Then configure again."
    COMMAND ${CMAKE_COMMAND} -E false
    COMMENT "nola's reference" VERBATIM)
endif()
