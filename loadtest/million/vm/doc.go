// Package vm runs a guest in QEMU: a kernel, an initramfs, two serial ports and nothing
// else. The kernel writes to the first port; on the second the guest's program says what
// it does, a line of JSON for each thing ([Event]).
package vm
