// Package vswitchd is the part of the Open_vSwitch database schema that Baize
// reads or writes, as Go types. Everything but this file is generated from
// vswitchd.ovsschema, which names only columns that every Open vSwitch since
// 2.5 has: libovsdb refuses a server that lacks a column of the model.
package vswitchd

//go:generate go run github.com/ovn-org/libovsdb/cmd/modelgen@v0.7.0 -extended -p vswitchd -o . vswitchd.ovsschema
