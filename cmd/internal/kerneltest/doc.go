// Package kerneltest holds no code, only the tests of Baize on the kernel's
// datapath: 'make test-kernel' runs them in a virtual machine with a stock
// kernel (scripts/kernel-vm.sh), whatever the kernel of this machine is.
package kerneltest
