// Chooses the table of kernels for this CPU.
#pragma once
#include "kernels.h"

const Kernels *kernels();
