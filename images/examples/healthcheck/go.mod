module example.org/healthcheck

go 1.24
