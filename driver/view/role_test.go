//go:build privileged

package view_test

const roleVariable = "CLOSURED_TEST_ROLE"

func play(role string) int { return 1 }
