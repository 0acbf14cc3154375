module github.com/nightshift-batch/nightshift/testrun

go 1.26.0
