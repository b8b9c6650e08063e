/* The core's logarithm and logistic function over arrays, for comparisons. */
#include <stddef.h>

#include "snn_log.h"
#include "snn_sigmoid.h"

void logs(const double *x, double *to, size_t n);
void sigmoids(const float *x, float *to, size_t n);

void logs(const double *x, double *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = snn_log(x[i]);
}

void sigmoids(const float *x, float *to, size_t n)
{
    for (size_t at = 0; at < n; at += SNN_SIGMOIDS) {
        const size_t bytes = (n - at < SNN_SIGMOIDS ? n - at : SNN_SIGMOIDS) * sizeof *x;
        float some[SNN_SIGMOIDS] = {0};
        memcpy(some, x + at, bytes);
        snn_sigmoids(some, some);
        memcpy(to + at, some, bytes);
    }
}
