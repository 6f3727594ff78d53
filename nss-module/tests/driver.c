/* What a process does with the module through glibc and by hand. Every mode ends with 0 only if all of it was as it should be.
 *
 *   driver sizes MODULE NAME GROUP        each buffer size, with guards around the buffer
 *   driver threads COUNT ROUNDS NAME UID  lookups in threads, and in children forked while they run
 *   driver reload ROUNDS MODULE NAME      dlopen, a lookup, dlclose
 *   driver cancel MODULE NAME             a lookup in a thread that is cancelled: it ends, and nothing else
 *   driver error NAME ERRNO               getpwnam_r finds nobody, and says why with this number
 *   driver groups NAME GID COUNT          getgrouplist gives so many groups, with GID
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <nss.h>
#include <pthread.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef enum nss_status by_name(const char *, void *, char *, size_t, int *);

static void fail(const char *what, long at) {
  fprintf(stderr, "driver: %s (%ld)\n", what, at);
  _exit(1);
}

static void *symbol(void *module, const char *name) {
  void *found = dlsym(module, name);
  if (!found) fail(dlerror(), 0);
  return found;
}

#define GUARD 64
#define LARGEST 2048

/* Every size, every shift of the start: too small says so and touches nothing outside; what fits is whole. */
static void sizes(void *module, const char *function, const char *name, int is_group) {
  by_name *call = (by_name *)symbol(module, function);
  static char area[GUARD + 16 + LARGEST + GUARD];
  for (size_t shift = 0; shift < 16; shift++) {
    int fitted = 0;
    for (size_t size = 0; size <= LARGEST; size = size < 256 ? size + 1 : size + 97) {
      memset(area, 0x5a, sizeof area);
      char *buffer = area + GUARD + shift;
      union { struct passwd user; struct group group; } result;
      int number = 0;
      enum nss_status status = call(name, &result, buffer, size, &number);
      for (char *byte = area; byte < area + sizeof area; byte++)
        if ((byte < buffer || byte >= buffer + size) && *byte != 0x5a) fail("wrote outside the buffer", (long)size);
      if (status == NSS_STATUS_TRYAGAIN) {
        if (number != ERANGE) fail("a small buffer without ERANGE", number);
        if (fitted) fail("a larger buffer does not fit", (long)size);
        continue;
      }
      if (status != NSS_STATUS_SUCCESS) fail("no answer", status);
      fitted = 1;
      if (is_group) {
        if ((uintptr_t)result.group.gr_mem % sizeof(char *)) fail("gr_mem is not aligned", (long)shift);
        for (char **member = result.group.gr_mem; *member; member++)
          if (*member < buffer || *member + strlen(*member) >= buffer + size) fail("a member outside the buffer", 0);
        if (strcmp(result.group.gr_name, name)) fail("another group", 0);
      } else if (strcmp(result.user.pw_name, name) || result.user.pw_passwd[0] != '*') {
        fail("another user", 0);
      }
    }
    if (!fitted) fail("never fitted", (long)shift);
  }
}

static const char *wanted;
static uid_t wanted_uid;
static long rounds;

static void look(long count) {
  char buffer[4096];
  struct passwd user, *found;
  for (long round = 0; round < count; round++) {
    int error = getpwnam_r(wanted, &user, buffer, sizeof buffer, &found);
    if (error || !found || user.pw_uid != wanted_uid) fail("a lookup by name", error);
    error = getpwuid_r(wanted_uid, &user, buffer, sizeof buffer, &found);
    if (error || !found || strcmp(user.pw_name, wanted)) fail("a lookup by number", error);
    gid_t groups[64];
    int most = 64;
    if (getgrouplist(wanted, user.pw_gid, groups, &most) != 2) fail("the groups of the user", most);
  }
}

static void *thread(void *unused) {
  look(rounds);
  return unused;
}

static void threads(long count) {
  pthread_t ids[256];
  for (long index = 0; index < count; index++)
    if (pthread_create(&ids[index], NULL, thread, NULL)) fail("pthread_create", index);
  for (int child = 0; child < 16; child++) {
    pid_t pid = fork();
    if (pid == 0) {
      look(20);
      _exit(0);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status) fail("a forked child", status);
  }
  for (long index = 0; index < count; index++) pthread_join(ids[index], NULL);
}

static void reload(const char *path, const char *name) {
  for (long round = 0; round < rounds; round++) {
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module) fail(dlerror(), round);
    by_name *call = (by_name *)symbol(module, "_nss_countersign_getpwnam_r");
    if (round % 100 == 0) {
      char buffer[4096];
      struct passwd user;
      int number;
      if (call(name, &user, buffer, sizeof buffer, &number) != NSS_STATUS_SUCCESS) fail("a lookup after dlopen", round);
    }
    if (dlclose(module)) fail("dlclose", round);
  }
}

static int done_before_the_end;
static by_name *cancelled_call;

static void *cancelled(void *unused) {
  char buffer[4096];
  struct passwd user;
  int number;
  /* Pending from here on: the module opens and reads files, where it would act. */
  if (pthread_cancel(pthread_self())) fail("pthread_cancel", 0);
  if (cancelled_call(wanted, &user, buffer, sizeof buffer, &number) == NSS_STATUS_SUCCESS) done_before_the_end = 1;
  pthread_testcancel();
  fail("cancelling is off after the call", 0);
  return unused;
}

static void cancel(const char *path) {
  void *module = dlopen(path, RTLD_NOW);
  if (!module) fail(dlerror(), 0);
  cancelled_call = (by_name *)symbol(module, "_nss_countersign_getpwnam_r");
  pthread_t id;
  void *result;
  if (pthread_create(&id, NULL, cancelled, NULL) || pthread_join(id, &result)) fail("a thread", 0);
  if (result != PTHREAD_CANCELED || !done_before_the_end) fail("cancelled inside of the call", 0);
}

static void error_of(const char *name, int expected) {
  char buffer[4096];
  struct passwd user, *found;
  int error = getpwnam_r(name, &user, buffer, sizeof buffer, &found);
  if (found || error != expected) fail("another error", error);
}

static void groups_with(const char *name, gid_t own, int expected) {
  gid_t groups[64];
  int most = 64;
  if (getgrouplist(name, own, groups, &most) != expected) fail("other groups", most);
}

int main(int count, char **argument) {
  if (count == 5 && !strcmp(argument[1], "sizes")) {
    void *module = dlopen(argument[2], RTLD_NOW);
    if (!module) fail(dlerror(), 0);
    sizes(module, "_nss_countersign_getpwnam_r", argument[3], 0);
    sizes(module, "_nss_countersign_getgrnam_r", argument[4], 1);
  } else if (count == 6 && !strcmp(argument[1], "threads")) {
    rounds = atol(argument[3]);
    wanted = argument[4];
    wanted_uid = (uid_t)strtoul(argument[5], NULL, 10);
    threads(atol(argument[2]));
  } else if (count == 5 && !strcmp(argument[1], "reload")) {
    rounds = atol(argument[2]);
    reload(argument[3], argument[4]);
  } else if (count == 4 && !strcmp(argument[1], "cancel")) {
    wanted = argument[3];
    cancel(argument[2]);
  } else if (count == 4 && !strcmp(argument[1], "error")) {
    error_of(argument[2], atoi(argument[3]));
  } else if (count == 5 && !strcmp(argument[1], "groups")) {
    groups_with(argument[2], (gid_t)strtoul(argument[3], NULL, 10), atoi(argument[4]));
  } else {
    fail("expected: a mode and its arguments", count);
  }
  return 0;
}
