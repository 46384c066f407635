// Package packagetest holds no code, only the tests of the packages that
// 'make packages' builds: installed, upgraded, removed and cleaned up after, by
// dpkg and by rpm, on a clean Debian root.
package packagetest
