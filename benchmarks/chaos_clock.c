/* Shifts the wall clock that Python code reads by SKEW_SECONDS, for the fault "clock-skew"; loaded with LD_PRELOAD.

   Only calls by the interpreter itself are shifted. Ray's C++ sleeps until points of the wall clock, which the kernel
   compares with the true one: it would wait for hours, or not at all (and so does all that libfaketime shifts). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*original)(clockid_t, struct timespec *);
    static void *interpreter;
    Dl_info info;
    if (original == NULL) {
        void *symbol = dlsym(RTLD_DEFAULT, "Py_BytesMain");
        if (symbol != NULL && dladdr(symbol, &info))
            interpreter = info.dli_fbase;
        original = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    }
    int code = original(clock, now);
    const char *skew = getenv("SKEW_SECONDS");
    if (code == 0 && clock == CLOCK_REALTIME && skew != NULL && interpreter != NULL &&
        dladdr(__builtin_return_address(0), &info) && info.dli_fbase == interpreter)
        now->tv_sec += atol(skew);
    return code;
}
