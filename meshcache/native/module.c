/* meshcache.native._native: the hot paths of reads and writes, compiled.
 *
 * Each does what a function in Python does, which serves where nothing was compiled and
 * says what is right (tests/native). There is no state but in the objects made here,
 * and a table of names (unpack.h) that nobody can tell from none.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "fast.h"
#include "reader.h"
#include "xxh3.h"

/* What native/__init__.py knows how to use: raise both when functions change. */
#define MESHCACHE_INTERFACE 1

/* Of what the compiled file was made; the build gives it. */
#ifndef MESHCACHE_SOURCE
#define MESHCACHE_SOURCE ""
#endif

static PyObject *
make(PyObject *module, vectorcallfunc call, PyObject *otherwise)
{
    module_state *state = PyModule_GetState(module);
    return fast_make((PyTypeObject *)state->fast, call, otherwise);
}

static PyObject *
make_decoder(PyObject *module, PyObject *otherwise)
{
    return make(module, fast_decode, otherwise);
}

static PyObject *
make_encoder(PyObject *module, PyObject *otherwise)
{
    return make(module, fast_encode, otherwise);
}

static PyObject *
make_keys(PyObject *module, PyObject *otherwise)
{
    return make(module, fast_key, otherwise);
}

static PyObject *
make_records(PyObject *module, PyObject *otherwise)
{
    return make(module, fast_record, otherwise);
}

static PyObject *
hash_of(PyObject *module, PyObject *data)
{
    Py_buffer bytes;
    if (PyObject_GetBuffer(data, &bytes, PyBUF_SIMPLE) < 0)
        return NULL;
    uint64_t hashed = xxh3(bytes.buf, (size_t)bytes.len);
    PyBuffer_Release(&bytes);
    return PyLong_FromUnsignedLongLong(hashed);
}

static PyMethodDef functions[] = {
    {"decoder", make_decoder, METH_O, "Return a decoder of msgpack (data) -> value."},
    {"encoder", make_encoder, METH_O, "Return an encoder of keys (value) -> bytes."},
    {"keys", make_keys, METH_O, "Return a maker of full keys (prefix, key) -> pair."},
    {"records", make_records, METH_O, "Return a maker of an entry's bytes."},
    {"xxh3", hash_of, METH_O, "Return the 64-bit XXH3 of some bytes."},
    {NULL, NULL, 0, NULL},
};

static int
executed(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    state->fast = PyType_FromModuleAndSpec(module, &fast_spec, NULL);
    if (!state->fast)
        return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &reader_spec, NULL);
    if (!type)
        return -1;
    int added = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    if (added < 0)
        return -1;
    if (PyModule_AddIntConstant(module, "INTERFACE", MESHCACHE_INTERFACE) < 0)
        return -1;
    return PyModule_AddStringConstant(module, "SOURCE", MESHCACHE_SOURCE);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->fast);
    for (size_t each = 0; each < UNPACK_NAMES; each++)
        Py_VISIT(state->names.seen[each]);
    return 0;
}

static int
module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->fast);
    for (size_t each = 0; each < UNPACK_NAMES; each++)
        Py_CLEAR(state->names.seen[each]);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, executed},
#ifdef Py_MOD_GIL_NOT_USED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "meshcache.native._native",
    .m_doc = "The hot paths of reads and writes, compiled.",
    .m_size = sizeof(module_state),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
