/* Full keys of the two most frequent kinds: prefix, then `s` and UTF-8 or `i` and hex. */
#ifndef MESHCACHE_KEYS_H
#define MESHCACHE_KEYS_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

/* As keys.MAX_KEY_BYTES, for what follows the prefix. */
enum { KEY_BYTES = 65536, KEY_DIGITS = 18 };

static PyObject *
key_of(PyObject *prefix, char tag, const char *text, Py_ssize_t size)
{
    Py_ssize_t before = PyBytes_GET_SIZE(prefix);
    PyObject *full = PyBytes_FromStringAndSize(NULL, before + 1 + size);
    if (!full)
        return NULL;
    char *to = PyBytes_AS_STRING(full);
    memcpy(to, PyBytes_AS_STRING(prefix), (size_t)before);
    to[before] = tag;
    memcpy(to + before + 1, text, (size_t)size);
    return full;
}

static PyObject *
key_of_int(PyObject *prefix, PyObject *key)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(key, &overflow);
    if (overflow)
        return NULL;
    unsigned long long rest = number;
    if (number < 0)
        rest = 0 - rest;
    char digits[KEY_DIGITS], *at = digits + KEY_DIGITS;
    do {
        *--at = "0123456789abcdef"[rest & 15];
    } while (rest >>= 4);
    if (number < 0)
        *--at = '-';
    return key_of(prefix, 'i', at, digits + KEY_DIGITS - at);
}

/* The full key, or NULL: Python knows. No error is set but for want of memory. */
static PyObject *
key_full(PyObject *prefix, PyObject *key)
{
    if (PyLong_CheckExact(key))
        return key_of_int(prefix, key);
    if (PyUnicode_CheckExact(key) && PyUnicode_IS_COMPACT_ASCII(key) &&
        PyUnicode_GET_LENGTH(key) < KEY_BYTES)
        return key_of(prefix, 's', PyUnicode_DATA(key), PyUnicode_GET_LENGTH(key));
    return NULL;
}

#endif
