# tar: print the version of tar.

tar --version
finish 0
