"""What the packed program answers to "hello". Packing replaces this module; see sharewright.guest.package."""

IDENTITY = "unpacked"
