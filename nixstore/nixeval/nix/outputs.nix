# A value -> { outputs = [ { derivation, output, path } … ]; }, or
# { wrong = "…"; } which says what the value is instead.  (A set with an attribute
# outPath would become that path in JSON.)  The text is also given to
# `nix eval --apply` as it is, so that it refers to no other file.
value:
let
  isDerivation = v: builtins.isAttrs v && (v.type or null) == "derivation";
  kinds = {
    bool = "a boolean"; float = "a number"; int = "a number"; lambda = "a function"; list = "a list";
    null = "null"; path = "a path"; set = "a set"; string = "a string";
  };
  describe = v: kinds.${builtins.typeOf v} or "a ${builtins.typeOf v}";
  values = if builtins.isList value then value else [ value ];
  wrong = builtins.filter (v: ! isDerivation v) values;
  # Only a real derivation's outPath carries the derivation in its context: a
  # set that names somebody else's path is not one.
  output = v:
    let
      outPath = "${v.outPath}";
      outputName = v.outputName or "out";
      context = builtins.getContext outPath;
      made = (context.${builtins.unsafeDiscardStringContext v.drvPath} or { }).outputs or [ ];
    in
    if builtins.length (builtins.attrNames context) == 1 && builtins.elem outputName made
    then { derivation = v.drvPath; output = outputName; path = outPath; }
    else throw "its outPath is not that of its derivation";
in
if wrong != [ ] then {
  wrong = (if builtins.isList value then "a list with " else "") + describe (builtins.head wrong);
} else { outputs = map output values; }
