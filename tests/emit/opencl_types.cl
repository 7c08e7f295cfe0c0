/* What every OpenCL C compiler declares before a program, as far as these kernels need it: zig's
 * clang comes without the header that does. */
typedef unsigned short ushort;
typedef float float2 __attribute__((ext_vector_type(2)));
typedef float float4 __attribute__((ext_vector_type(4)));
typedef float float8 __attribute__((ext_vector_type(8)));
typedef int int8 __attribute__((ext_vector_type(8)));
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
