# Runs PROGRAM, made from check_sample.cpp: cmake -DPROGRAM=... -P check_sample.cmake. A harness can't judge itself.

# Runs the program with `arguments`. It must exit with `code`, and its output must hold every further argument.
function(expect arguments code)
  execute_process(COMMAND ${PROGRAM} ${arguments} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
  string(APPEND output "${errors}")
  set(missing "")
  foreach(text IN LISTS ARGN)
    string(FIND "${output}" "${text}" place)
    if(place EQUAL -1)
      list(APPEND missing "${text}")
    endif()
  endforeach()
  if(missing OR NOT result STREQUAL code)
    message(SEND_ERROR "check_sample ${arguments} exits with ${result} instead of ${code}, without '${missing}':\n${output}")
  endif()
endfunction()

expect(passes 0 "1 tests, 8 checks, 0 failures")
expect(fails_check 1 "fails_check\n  " "check_sample.cpp:" ": 1 > 2\n" "1 tests, 1 checks, 1 failures")
expect(fails_eq 1 "fails_eq [third case]\n  " ": 1 + 1 == 3: got 2, want 3\n")
expect(fails_near 1 "fails_near\n  " ": 1 ~ 2: got 1, want 2 +- 0.5\n" "fails_near_nan\n  " "got nan, want 2"
       "2 tests, 2 checks, 2 failures")
expect(fails_throws 1 "fails_throws_nothing\n  " "got 'nothing was thrown', want ''\n" "fails_throws_other_text\n  "
       "got 'x is 2', want 'got 2'\n" "2 tests, 2 checks, 2 failures")
expect(uncaught 1 "uncaught_exception\n  uncaught exception: x is 3\n" "uncaught_other_type\n  uncaught exception: x is 4\n"
       "uncaught_number\n  uncaught exception of an unknown type\n" "3 tests, 0 checks, 3 failures")
expect(typed 1 "typed<double>\n  " "2 tests, 2 checks, 1 failures")
expect(typed<float> 0 "1 tests, 1 checks, 0 failures")
expect(s 1 "fails_check\n  ") # the context of `passes` is gone
expect(hundred 1 "got 19, want -1\n" "stopped after 20 failures\n")
expect(skips 77 "skipped: no such CPU\n")
expect(--list 0 "passes\n" "fails_check\n" "typed<float>\ntyped<double>\n" "skips\n")
expect(no_such_test 2 "no test has 'no_such_test' in its name")
expect(--no-such-option 2 "got '--no-such-option'")
expect("passes;skips" 2 "got 'skips'")
