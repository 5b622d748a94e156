"""The program inside a service VM: standard library only, packed into one file by :mod:`sharewright.guest.package`.

It runs as root under QEMU without hardware acceleration too, ten times slower than here, so that imports are few and
processes are counted. Modules: ``host`` (files and commands), ``values`` (JSON values, read strictly), ``desired`` (the
document), ``facts`` (what is there), ``planning`` (what to do, pure), ``acting`` (doing it), ``unmounting`` (the last
part of it), ``boot`` (config drive), ``serving`` (the protocol); ``moving``, ``copying``, ``ext4`` and ``handles`` (a
share moves to a smaller disk).
"""
