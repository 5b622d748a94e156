"""The embedded engine: libvirt/QEMU on one Linux host."""
