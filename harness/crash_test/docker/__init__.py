"""``--runner docker``: the target, the mount below it and the generator run in containers without a network.

Two containers of one image. The *disk* holds the lazyfs mount, and lives as long as the run. The *computer* holds the
target and the generators; it is started for each life of the target, in the disk's namespaces of processes and mounts,
and killed by the engine. So the computer dies first and the power is cut afterwards, as with local processes, and what
survives lies in a directory of the host, where it is read from outside.
"""
