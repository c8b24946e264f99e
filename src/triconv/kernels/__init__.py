"""Code generation: kernels written in a few words of Python, compiled by LLVM for the processor at hand."""
