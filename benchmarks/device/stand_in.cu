/* The network of stand_in.py: the frame's column means into one cell with a candidate and two gates, then the heads.
 *
 * nvcc makes four kernels of it, and a C++ compiler four loops: `-x c++ -include cmath`. The tests hold the loops
 * against the same network in numpy. Every number is computed by one thread, in one order, whatever the batch is.
 */
#ifdef __CUDACC__
#define KERNEL extern "C" __global__ void
#define DEVICE static __device__
#define FIRST (int)(blockIdx.x * blockDim.x + threadIdx.x)
#define STRIDE (int)(gridDim.x * blockDim.x)
#else
#define KERNEL extern "C" void
#define DEVICE static
#define FIRST 0
#define STRIDE 1
#endif

constexpr float PERIOD = 1.0f / 32, MOST_MISSED = 16;

/* weights [units, size], answers [streams, size]; sizes in numbers, units are all of a stream's memory. */
struct Head {
    const float *weights;
    float *answers;
    int size, squashed;
};

/* frame [streams, rows, width], where width counts the colours; h and c [layers, streams, hidden];
 * gates [width + units, 3 * units], bias and missed [3 * units]; columns [streams, width] is scratch. */
struct Step {
    const unsigned char *frame;
    const float *dt, *h, *c, *gates, *bias, *missed;
    float *columns, *h_next, *c_next, *sizes;
    Head heads[8];
    int streams, rows, width, layers, hidden, outputs;
};

DEVICE float sigmoid(float value) { return 1 / (1 + expf(-value)); }

DEVICE int place(const Step &step, int stream, int unit) {
    return (unit / step.hidden * step.streams + stream) * step.hidden + unit % step.hidden;
}

KERNEL column_means(Step step) {
    for (int index = FIRST; index < step.streams * step.width; index += STRIDE) {
        const unsigned char *column = step.frame + index / step.width * step.rows * step.width + index % step.width;
        float sum = 0;
        for (int row = 0; row < step.rows; ++row) sum += (column[row * step.width] - 128.0f) / 64;
        step.columns[index] = sum / step.rows;
    }
}

KERNEL cell(Step step) {
    const int units = step.layers * step.hidden;
    for (int index = FIRST; index < step.streams * units; index += STRIDE) {
        const int stream = index / units, unit = index % units;
        const float *columns = step.columns + stream * step.width;
        const float periods = step.dt ? step.dt[stream] / PERIOD - 1 : 0;
        float sums[3];
        for (int gate = 0; gate < 3; ++gate) {
            const int at = gate * units + unit;
            const float *weights = step.gates + at;
            float sum = step.bias[at] + fminf(fmaxf(periods, 0), MOST_MISSED) * step.missed[at];
            for (int row = 0; row < step.width; ++row) sum += columns[row] * weights[row * 3 * units];
            weights += step.width * 3 * units;
            for (int row = 0; row < units; ++row) sum += step.h[place(step, stream, row)] * weights[row * 3 * units];
            sums[gate] = sum;
        }
        const int here = place(step, stream, unit);
        const float keep = sigmoid(sums[1]), c = keep * step.c[here] + (1 - keep) * tanhf(sums[0]);
        step.c_next[here] = c;
        step.h_next[here] = sigmoid(sums[2]) * tanhf(c);
    }
}

KERNEL answers(Step step) {
    for (int output = 0; output < step.outputs; ++output) {
        const Head head = step.heads[output];
        for (int index = FIRST; index < step.streams * head.size; index += STRIDE) {
            float sum = 0;
            for (int unit = 0; unit < step.layers * step.hidden; ++unit)
                sum += step.h_next[place(step, index / head.size, unit)] *
                       head.weights[unit * head.size + index % head.size];
            head.answers[index] = head.squashed ? sigmoid(sum) : sum;
        }
    }
}

KERNEL memory_size(Step step) {
    for (int stream = FIRST; stream < step.streams; stream += STRIDE) {
        float sum = 0;
        for (int unit = 0; unit < step.layers * step.hidden; ++unit) {
            const int at = place(step, stream, unit);
            sum += fabsf(step.h_next[at]) + fabsf(step.c_next[at]);
        }
        step.sizes[stream] = sum;
    }
}
