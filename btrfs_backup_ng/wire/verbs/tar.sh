# tar: print the versions of tar and of coreutils.

tar --version
stat --version
finish 0
