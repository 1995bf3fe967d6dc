/*
 * Lets the unmodified sources of zeroc-ice 3.6.5 (2019) compile on Python 3.11 and newer.
 *
 * Given to the compiler with -include, so it comes before every source file, of C and of C++ alike; only the C++ files use Python.
 * Each block names the change in Python and the place in zeroc-ice that met it.
 */
#ifndef LADING_ZEROC_ICE_NEWER_PYTHON_H
#define LADING_ZEROC_ICE_NEWER_PYTHON_H
#ifdef __cplusplus

#include <Python.h>

/*
 * 3.11: the fields of PyThreadState went, `frame` among them. Util.cpp reads PyThreadState_GET()->frame to find the globals of
 * the caller. It gets a stand-in with that one field, filled when it is asked for, one per thread as the real one was.
 */
#if PY_VERSION_HEX >= 0x030B0000
namespace lading
{
struct ThreadState
{
    PyFrameObject* frame; /* borrowed, as it was */
};

inline ThreadState* threadState()
{
    static thread_local ThreadState state;
    state.frame = PyEval_GetFrame();
    return &state;
}
}
#undef PyThreadState_GET
#define PyThreadState_GET() (::lading::threadState())
#endif

/*
 * 3.13: three old calls went (some came back as deprecated, hence macros: they do not mind). Init.cpp prepares threads, which
 * Python has done by itself since 3.7; Types.cpp and Util.cpp call objects; Types.cpp reads buffers.
 */
#if PY_VERSION_HEX >= 0x030D0000
namespace lading
{
/* As the old call did, the buffer is given back at once: the caller holds the object while it reads. */
inline int asReadBuffer(PyObject* object, const void** start, Py_ssize_t* length)
{
    Py_buffer view;
    if(PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) != 0)
    {
        return -1;
    }
    *start = view.buf;
    *length = view.len;
    PyBuffer_Release(&view);
    return 0;
}
}
#define PyEval_InitThreads() ((void)0)
#define PyEval_CallObject(callable, arguments) PyObject_CallObject((callable), (arguments))
#define PyObject_AsReadBuffer(object, start, length) (::lading::asReadBuffer((object), (start), (length)))
#endif

#endif /* __cplusplus */
#endif
