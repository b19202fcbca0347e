// Installed setuid root: run as another user it prints 0, or that user's id when the container sets no_new_privs.
#include <stdio.h>
#include <unistd.h>

int main(void) {
  printf("Effective uid: %u\n", (unsigned)geteuid());
  return 0;
}
