/* An entry's bytes, as store/record.py writes them. */
#ifndef MESHCACHE_RECORDS_H
#define MESHCACHE_RECORDS_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "arena.h"
#include "xxh3.h"

/* The bytes of an entry; NULL without an error if Python has to see what is wrong. */
static PyObject *
record_of(PyObject *tenure, PyObject *key, PyObject *entry)
{
    if (!PyLong_CheckExact(tenure) || !PyBytes_CheckExact(key) || !PyTuple_Check(entry) ||
        PyTuple_GET_SIZE(entry) != 3 || !PyBytes_CheckExact(PyTuple_GET_ITEM(entry, 0)) ||
        !PyLong_CheckExact(PyTuple_GET_ITEM(entry, 1)) ||
        !PyFloat_CheckExact(PyTuple_GET_ITEM(entry, 2)))
        return NULL;
    PyObject *value = PyTuple_GET_ITEM(entry, 0);
    uint64_t number = PyLong_AsUnsignedLongLong(tenure);
    uint64_t version = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(entry, 1));
    double expires = PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(entry, 2));
    size_t keyed = (size_t)PyBytes_GET_SIZE(key), valued = (size_t)PyBytes_GET_SIZE(value);
    if (PyErr_Occurred() || number > 0xFF || keyed > ARENA_KEY || valued > UINT32_MAX)
        return NULL;
    size_t size = ARENA_STAMP + keyed + valued;
    PyObject *record =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(ARENA_STAMP_AT + size));
    if (!record)
        return NULL;
    uint8_t *to = (uint8_t *)PyBytes_AS_STRING(record), *body = to + ARENA_STAMP_AT;
    uint64_t meta = number | (uint64_t)keyed << 16 | (uint64_t)valued << 32;
    memcpy(to, &meta, 8);
    memcpy(body, &version, 8);
    memcpy(body + 8, &expires, 8);
    memcpy(body + ARENA_STAMP, PyBytes_AS_STRING(key), keyed);
    memcpy(body + ARENA_STAMP + keyed, PyBytes_AS_STRING(value), valued);
    uint32_t checksum = (uint32_t)xxh3(body, size) + (uint32_t)meta;
    memcpy(to + 8, &checksum, 4);
    return record;
}

#endif
