"""User code in which a type checker must reject exactly the lines marked so. Never run."""

import torch

from hardmine import losses, ops

x = torch.randn(8, 4)
labels = torch.arange(8) // 2

ops.triplet_loss(x, labels, term="ratio")  # rejected
ops.triplet_loss(x, labels, positive="easy")  # rejected
ops.triplet_loss(x, labels, negative="all")  # rejected
ops.triplet_loss(x, labels, reduction="active")  # rejected
ops.triplet_loss(x, labels, weights=2.0)  # rejected
len(ops.select_triplets(x, labels).anchor_index)  # rejected
ops.triplet_loss(x, labels, similarity="l2")  # rejected
ops.triplet_loss(x, labels, tie=True)  # rejected
ops.triplet_loss(x, labels, temprature=0.1)  # rejected
ops.triplet_loss(x, labels, return_selection=True).backward()  # rejected
ops.triplet_loss(x, labels, margin="0.2")  # rejected
ops.triplet_loss(x)  # rejected
ops.sct_loss(x, labels, preset="code2019")  # rejected
ops.sct_loss(x, labels, term="nca")  # rejected
ops.sct_loss(x, labels, return_count=True).backward()  # rejected
ops.sct_loss(x, labels, reduction="average")  # rejected
ops.tuplet_loss(x, labels, positive="random")  # rejected
ops.tuplet_loss(x, labels, return_terms=True).mean()  # rejected
ops.tuplet_loss(x, labels, lam=1.0)  # rejected
ops.batch_all_triplet_loss(x, labels, similarity="dot")  # rejected
ops.batch_all_triplet_loss(x, labels, reduction="none")  # rejected
ops.batch_all_triplet_loss(x, labels, return_counts=True).backward()  # rejected
ops.indexed_triplet_loss(x, labels, term="ratios")  # rejected
ops.global_loss(x, labels, similarity="dot")  # rejected
ops.knn(x, k="3")  # rejected
len(ops.knn(x).distance)  # rejected
len(ops.select_triplets(x, labels).positive)  # rejected
ops.select_triplets(x, labels, semihard_fallback="none")  # rejected

losses.TripletLoss("easiest")  # rejected
losses.TripletLoss(positive="easy")  # rejected
losses.TripletLoss(temprature=0.1)  # rejected
losses.TripletLoss()(x, labels, return_selection=True).backward()  # rejected
losses.SCTLoss(margin=0.2)  # rejected
losses.SCTLoss()(x)  # rejected
losses.EPHNLoss(positive="easiest")  # rejected
losses.HPHNLoss(tie="include")  # rejected
losses.BatchAllLoss(positive="all")  # rejected
losses.BatchAllTripletLoss(similarity="dot")  # rejected
losses.HierarchicalTripletLoss()  # rejected
losses.RatioTripletLoss(lam=1.0)  # rejected
