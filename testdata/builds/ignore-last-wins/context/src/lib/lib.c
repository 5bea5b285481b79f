src/lib/lib.c
