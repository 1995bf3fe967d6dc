/* Python 3.11 removed this header. zeroc-ice 3.6.5 includes it for PyEval_EvalCode, which <Python.h> declares. */
