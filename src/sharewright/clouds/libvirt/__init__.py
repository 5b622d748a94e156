"""The embedded engine: libvirt/QEMU on one Linux host. Import LibvirtCloud from .cloud; it needs libvirt-python."""
