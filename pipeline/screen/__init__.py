"""Screening (being written: limits.py, thumbs.py and the functions below get their full form)."""
import cv2, numpy as np
from pipeline.sources.base import Rejected
FIGURES=("brightness","sharpness")
def screen_raw(raw, limits): 
    if min(raw.width,raw.height)<limits["min_side"]: raise Rejected("too_small","x")
def figures(image):
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return {"brightness":float(grey.mean()),"sharpness":float(cv2.Laplacian(grey, cv2.CV_32F).var())}
def screen_image(image,facts,numbers,limits):
    if int(np.ptp(image)) < 8: raise Rejected("uniform", "")
def screen_caption(text,limits):
    if len(text)<3: raise Rejected("caption_empty","")
def screen_map(image,made,condition,limits): pass
