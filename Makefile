.DEFAULT_GOAL := help
.PHONY: help install images serve demo test check unit e2e stress attack crash bench clean

help:     ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
install:  ## make .venv with Corral and all it needs
	@scripts/setup.sh
images:   ## build the sandbox images
	@scripts/images.sh
serve:    ## run the server (see corral serve --help)
	@scripts/serve.sh
demo:     ## set everything up and run an agent in a real container
	@scripts/demo.sh
test:     ## set everything up and run all checks and tests
	@scripts/test.sh
check:    ## lint, types, import floors
	@scripts/test.sh check
unit:     ## unit and conformance tests
	@scripts/test.sh unit
e2e:      ## tests in real containers
	@scripts/test.sh e2e
stress:   ## streams under a thousand readers, stalls, storms of reconnects
	@scripts/test.sh stress
attack:   ## attack real sandboxes on each runtime, report every attempt
	@scripts/attack.sh
crash:    ## kill servers 500 times, look whether anything is lost, done twice or left over
	@scripts/crash.sh --report
bench:    ## measure, each figure beside its baseline
	@scripts/bench.sh
clean:    ## stop the engine that we started, remove what we built
	@scripts/clean.sh
