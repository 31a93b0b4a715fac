# SPDX-License-Identifier: Apache-2.0
# Writes OUT with the version and the git revision of SOURCE; touches it only when that changed, so that a build
# without new commits compiles nothing.  cmake -DVERSION=… -DSOURCE=… -DOUT=… -P revision.cmake
execute_process(COMMAND git -c safe.directory=* -C ${SOURCE} rev-parse --short=12 HEAD
                OUTPUT_VARIABLE revision OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
set(text ${VERSION})
if(failed AND NOT "$ENV{QUANT_REVISION}" STREQUAL "")  # a build without git, of the Dockerfile
  string(APPEND text "+$ENV{QUANT_REVISION}")
endif()
if(NOT failed)
  string(APPEND text "+${revision}")
  execute_process(COMMAND git -c safe.directory=* --no-optional-locks -C ${SOURCE} status --porcelain -uno
                  OUTPUT_VARIABLE dirty ERROR_QUIET)
  if(NOT "${dirty}" STREQUAL "")
    string(APPEND text ".dirty")
  endif()
endif()
file(CONFIGURE OUTPUT ${OUT} CONTENT "#define QUANT_VERSION \"${text}\"\n")
