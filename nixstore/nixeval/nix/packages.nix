# Looks up the names of request.json.  Gives { outputs = …; }, or for the first
# name that fails { name, wrong } or { name, missing = [ names beside it ]; }.
let
  request = builtins.fromJSON (builtins.readFile ./request.json);
  sets = import ./set.nix;
  outputsOf = import ./outputs.nix;

  upper = [ "A" "B" "C" "D" "E" "F" "G" "H" "I" "J" "K" "L" "M" "N" "O" "P" "Q" "R" "S" "T" "U" "V" "W" "X" "Y" "Z" ];
  lower = [ "a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p" "q" "r" "s" "t" "u" "v" "w" "x" "y" "z" ];
  fold = builtins.replaceStrings upper lower;

  find = set: path:
    let
      name = builtins.head path;
      names = builtins.attrNames set;
      alike = builtins.filter (n: fold n == fold name) names;
    in
    if path == [ ] then { value = set; }
    else if ! builtins.isAttrs set then { missing = [ ]; }
    else if set ? ${name} then find set.${name} (builtins.tail path)
    else if builtins.length alike == 1 then find set.${builtins.head alike} (builtins.tail path)
    else { missing = names; };

  lookUp = path:
    let
      tries = map (set: find set path) sets;
      hits = builtins.filter (t: t ? value) tries;
      name = builtins.concatStringsSep "." path;
      result = outputsOf (builtins.head hits).value;
    in
    if hits == [ ] then { inherit name; missing = builtins.concatLists (map (t: t.missing) tries); }
    else if builtins.isList (builtins.head hits).value then { inherit name; wrong = "a list"; }
    else if result ? wrong then { inherit name; inherit (result) wrong; }
    else result;

  results = map lookUp request.names;
  failures = builtins.filter (r: ! (r ? outputs)) results;
in
if failures != [ ] then builtins.head failures
else { outputs = builtins.concatLists (map (r: r.outputs) results); }
