// Which table of kernels this CPU gets.
#pragma once
#include "kernels.h"

const Kernels *kernels();
