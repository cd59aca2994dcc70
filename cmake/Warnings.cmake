# Warnings for everyone; errors only where CMAKE_COMPILE_WARNING_AS_ERROR is set, as CI does.
add_library(memkv_warnings INTERFACE)
target_compile_options(
  memkv_warnings
  INTERFACE -Wall
            -Wextra
            -Wconversion
            -Wshadow
            -Wstrict-prototypes
            -Wmissing-prototypes
            -Wundef
            -Wvla
            -Wformat=2)
