// Holds the namespaces of a pod: does nothing until it is told to end.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	// Where containers of a pod share its processes, this one inherits orphans: nobody else would wait for them.
	signal.Ignore(syscall.SIGCHLD)
	<-end
}
