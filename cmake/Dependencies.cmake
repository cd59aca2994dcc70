# Finds what libmemkv stands on, and says what it found.
include(CheckCSourceCompiles)

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(OpenSSL 3.0 REQUIRED COMPONENTS Crypto)
find_package(PkgConfig REQUIRED)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash>=0.8.0)

# The distribution's inlined XXH3 is SSE2 code; the library's dispatch picks AVX2 or AVX-512
# when it runs, and is many times faster.  Not every build of libxxhash has it.
set(CMAKE_REQUIRED_LIBRARIES PkgConfig::XXHASH)
check_c_source_compiles(
  "#include <xxh_x86dispatch.h>
   int main(void) { return (int)XXH3_64bits_withSeed_dispatch(\"\", 0, 0); }"
  MEMKV_HAVE_XXH_DISPATCH)
unset(CMAKE_REQUIRED_LIBRARIES)

# Only rdma-core's headers are needed: the library itself is loaded when it is first used.
set(MEMKV_RDMA OFF)
if(MEMKV_WITH_RDMA)
  pkg_check_modules(VERBS QUIET libibverbs)
  find_path(MEMKV_VERBS_INCLUDE_DIR infiniband/verbs.h HINTS ${VERBS_INCLUDE_DIRS})
  mark_as_advanced(MEMKV_VERBS_INCLUDE_DIR)
  if(MEMKV_VERBS_INCLUDE_DIR)
    set(MEMKV_RDMA ON)
    # libibverbs calls itself 1.14.44.0 where rdma-core is 44.0.
    string(REGEX REPLACE "^1\\.[0-9]+\\." "" rdma_core_version "${VERBS_VERSION}")
    if(NOT rdma_core_version)
      set(rdma_core_version "of an unknown version, in ${MEMKV_VERBS_INCLUDE_DIR}")
    endif()
    message(STATUS "rdma-core headers: ${rdma_core_version}")
  elseif(MEMKV_WITH_RDMA STREQUAL "AUTO")
    message(STATUS "rdma-core headers: not found: built without RDMA")
  else()
    message(FATAL_ERROR "MEMKV_WITH_RDMA is ${MEMKV_WITH_RDMA}, but there is no "
                        "infiniband/verbs.h: install libibverbs-dev (Debian) or rdma-core-devel")
  endif()
else()
  message(STATUS "rdma-core headers: not looked for: built without RDMA")
endif()
