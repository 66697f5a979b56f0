// Package initramfs puts together the file system that a guest boots from: a cpio archive
// in the kernel's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst)
// with programs, the shared libraries that they need, and folders to mount on.
package initramfs
