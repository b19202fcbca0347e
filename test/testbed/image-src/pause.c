// The process a pod's sandbox lives in: holds the namespaces, reaps orphans when it is PID 1 of a shared PID namespace, ends on SIGINT and SIGTERM.
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "-v") == 0) {
    puts("pause (keelson test bed)");
    return 0;
  }
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGINT);
  sigaddset(&wanted, SIGTERM);
  sigaddset(&wanted, SIGCHLD);
  // Blocked and taken one by one: nothing arrives between a check and a wait.
  if (sigprocmask(SIG_BLOCK, &wanted, NULL) != 0) return 1;
  for (;;) {
    int got = 0;
    if (sigwait(&wanted, &got) != 0) continue;
    if (got != SIGCHLD) return 0;
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
  }
}
