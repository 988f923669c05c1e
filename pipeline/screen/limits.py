PRESETS={n:{"min_side":32 if n!="off" else 0,"duplicate_bits":40,"min_clip":0,"max_nsfw":1} for n in ("off","render","default","strict")}
def resolve_limits(p,o): return {**PRESETS[p],**o}
